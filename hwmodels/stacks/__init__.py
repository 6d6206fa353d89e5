"""Software stacks: one YAML file each, what it may state, how it is read, and which formats its engine takes."""
