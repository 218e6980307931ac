"""What every estimate shares: how sure an interval is, how many draws make it, and where chance starts."""

ALPHA = 0.05
"""Below this a corrected p-value decides."""
CONFIDENCE = 1 - ALPHA
"""Of every interval."""
TAIL = ALPHA / 2
"""What an interval leaves out at each end."""
DRAWS = 2000
"""Of a bootstrap over items."""
PAIRED_DRAWS = 4000
"""Of a bootstrap over clusters of paired differences."""
SEED = 0
"""Of every draw, where none is given."""
