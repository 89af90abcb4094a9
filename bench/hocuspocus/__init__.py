"""Hocuspocus, the Yjs server that people would otherwise take for this, as a peer of the bench: in memory only, no hook, no check."""
