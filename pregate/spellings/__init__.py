"""Names as people write them: of machines and engines, of models and their formats.

Text to the project's own names; what is found by a name, `pregate.named` loads. Flags of engines are
`pregate.engines`.
"""
