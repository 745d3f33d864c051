"""`g2rpo doctor`: checks of everything the service needs, on this machine and on its servers."""
