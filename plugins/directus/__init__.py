"""What the plugins `persistence.directus` and `auth.directus` share: the way to Directus, and what is kept there."""
