"""Files that are whole or not there: atomic writing, a folder's record, the cache."""
