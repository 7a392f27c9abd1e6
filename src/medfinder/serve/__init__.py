"""The index as a service: REST under ``/v1`` and the page that uses it."""
