"""The four slots, exactly one plugin each. The classes are what `provide_auth`, `provide_encryption`, `provide_cache` and
`provide_persistence` return; a method whose body is `...` must be written by the plugin."""
