"""Programs that a supervisor, torchrun or a researcher starts."""
