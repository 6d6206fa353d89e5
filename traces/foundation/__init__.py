"""What every room stands on: files and arguments from outside, files written whole, values that are kept; no model.

`documents` reads and `atomic_files` writes files, `type_checks` checks arguments against their annotations,
`read_only` is what frozen values hold in place of a dict, `memoised_values` keeps what is asked of again. Errors are
`traces.errors`.
"""
