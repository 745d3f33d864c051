"""What evaluations found: answers, pictures, the official files, comparisons, galleries."""
