"""The paper's tables as commands: their rows trained, evaluated, and set beside the paper's own figures."""
