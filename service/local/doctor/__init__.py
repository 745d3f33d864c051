"""`g2rpo doctor`: looks at everything the service needs on this machine and around it, and says what to mend."""
