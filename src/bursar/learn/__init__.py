"""Pure numerics: what is learned from calls that ended. No I/O, no clock."""
