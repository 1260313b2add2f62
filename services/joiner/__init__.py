"""The service that joins impressions with actions into examples."""
