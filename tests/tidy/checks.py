"""All checks: name -> function(tree, exemptions) that lists what is wrong."""

import check_layout
import check_options
import check_runs
import check_sizes
import check_structs

CHECKS = {
    "includes follow the arrows": lambda t, e: check_layout.include_arrows(t),
    "imports follow the arrows": lambda t, e: check_layout.import_arrows(t),
    "links follow the arrows": lambda t, e: check_layout.link_arrows(t),
    "files stay below their cap": lambda t, e: check_sizes.file_sizes(t, e.LONG_FILES),
    "functions stay below 70 lines": lambda t, e: check_sizes.function_sizes(t, e.LONG_FUNCTIONS),
    "folder readmes are short": lambda t, e: check_sizes.readme_sizes(t),
    "all code is built and included": lambda t, e: check_layout.dead_code(t),
    "all tests are run": lambda t, e: check_layout.unregistered_tests(t),
    "promises name their tests": lambda t, e: check_layout.named_tests(t),
    "all scripts and data are used": lambda t, e: check_layout.dead_files(t),
    "all folders are described": lambda t, e: check_layout.documentation(t),
    "nothing leaks": lambda t, e: check_layout.leaks(t),
    "shared structs are asserted": lambda t, e: check_structs.structs(
        t, e.NOT_SHARED, e.MISSING_ASSERTS),
    "options explain themselves": lambda t, e: check_options.definitions(
        t, e.ANY_VALUE, e.UNDOCUMENTED),
    "option tables are right": lambda t, e: check_options.tables(t),
    "named options exist": lambda t, e: check_options.uses(t, e.WRONG_FLAGS),
    "runs on GPUs are on record": lambda t, e: check_runs.gpu_runs(t),
    "environment variables are documented": lambda t, e: check_options.environment(t),
}
