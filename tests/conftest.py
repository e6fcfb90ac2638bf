"""The fixtures of all tests; what tests call by name is beside them in tests/fixtures."""

pytest_plugins = ["tests.fixtures.environment", "tests.fixtures.shared", "tests.fixtures.browser"]
