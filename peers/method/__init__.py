"""The method: peers, target selection, targets, losses."""
