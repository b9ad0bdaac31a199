"""Two reports compared: which sites are the same, and what they hold more or less."""
