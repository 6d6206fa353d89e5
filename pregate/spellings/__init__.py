"""Names as people write them: of machines and engines, of models and their formats."""
