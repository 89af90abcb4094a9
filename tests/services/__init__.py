"""The real servers that tests talk to, and what stands between: each starts its own, on ports and in folders of its own."""
