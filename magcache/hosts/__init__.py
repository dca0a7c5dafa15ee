"""What ties the core to a host program. Hosts import the core, never the other way round."""
