"""The page one can play with: one HTML file of schedules, prices and answers, and the recurrence to run them."""
