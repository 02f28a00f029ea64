"""Files on the disk: whole or absent, locked, and read with every mistake named. Nothing here knows a model."""
