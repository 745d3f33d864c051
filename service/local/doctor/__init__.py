"""`g2rpo doctor`: check everything the service needs, on this machine and on its servers."""
