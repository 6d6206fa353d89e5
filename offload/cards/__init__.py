"""A schedule on several cards: written as on one, then what each card computes of it and what they hand over.

Cards have whole layers each (`layers_on_cards`), or share every layer (`all_reduces`), with whole experts on each of
them (`expert_groups`, `evened_experts`) or attention copied (`copied_attention`). `many_cards` puts these together.
"""
