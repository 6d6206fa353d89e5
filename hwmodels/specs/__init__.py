"""What machines are claimed to be: one YAML file a component, how it is read, checked and changed."""
