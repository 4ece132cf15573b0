"""What tests of the inference layer may ask for beside the shared stack: a database of their own."""

from tests.integration.state.conftest import guarded as guarded
from tests.integration.state.conftest import guarded_url as guarded_url
from tests.integration.state.conftest import new_database_url as new_database_url
