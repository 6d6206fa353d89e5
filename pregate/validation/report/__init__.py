"""What a validation leaves behind for people and programs: a page with its pictures, rows, a summary."""
