"""Virtual time: interpreters that give a schedule its timeline on any machine that can be described."""
