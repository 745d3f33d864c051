"""Sample pictures: held out, and the best and worst of groups."""
