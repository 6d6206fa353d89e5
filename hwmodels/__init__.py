"""The machine: what a datasheet claims (`specs/`), what was measured (`fits/`), and op -> seconds (`cost`)."""
