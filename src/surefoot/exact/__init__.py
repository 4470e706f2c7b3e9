"""The exact room: small problems solved to the last digit in float64, and chapter 12 of
Kochenderfer, Wheeler and Wray's *Algorithms for Decision Making*. Every claim about a trust region
can be checked here without noise."""
