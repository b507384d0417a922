"""Federation of real sites: identities, roster, messages, hub, sites and coordinator. No module here imports torch."""
