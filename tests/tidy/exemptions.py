"""What the rules do not hold for. These lists only shrink: an entry that is no longer needed, or
whose subject is gone, fails the test."""

# file -> lines, of files over their cap
LONG_FILES = {}
# file:function -> lines
LONG_FUNCTIONS = {}

# struct of protocol/ -> why it needs no layout: it lies neither in shared memory nor in a message
NOT_SHARED = {
    "BackendOptions": "pointers of one process",
    "BackendText": "text for one process",
    "Boards": "addresses in one process",
    "Descriptor": "owns a file descriptor of one process",
    "DeviceBackend": "an interface inside one process",
    "DeviceInfo": "one process's backend to its caller, from one release",
    "Digest": "computes",
    "FabricHandle": "the driver's own bytes",
    "Gate": "the gate's word, decoded",
    "GroupLayout": "computes offsets",
    "HeaderParser": "computes",
    "KillAt": "counts down inside one process",
    "Lease": "one watcher's own state",
    "LoadedBackend": "a pointer of one process",
    "LoadView": "a pointer of one process",
    "Mapping": "an address in one process",
    "NpyArray": "a view of a file's bytes",
    "Packet": "a buffer around a message, with descriptors of one process",
    "PhysicalIds": "computes",
    "Plan": "the planner's result; PlanHeader and Replica are what others read",
    "PlanChecker": "computes",
    "PlanFault": "text for one process",
    "PlanRecordLayout": "computes offsets",
    "PlanShape": "made from GroupConfig",
    "RecordExpectation": "pointers of one process",
    "RecordedPlan": "a private copy of a record",
    "SlotLayout": "computes offsets",
    "SlotView": "addresses in one process or GPU",
    "SourceSplit": "computed alike on each side",
    "SplitInstance": "computed alike on each side",
    "VerdictWord": "a verdict word, decoded",
    "World": "an interface inside a simulation",
}
# struct -> the asserts it still lacks
MISSING_ASSERTS = {}

# flag -> why its help states neither unit nor range
ANY_VALUE = {"seed": "every number is as good as another"}
# program --flag -> why no help names it
UNDOCUMENTED = {
    "deploy/quickstart --supervise": "it calls itself with it, for --keep",
}
# what tests pass in order to be refused
WRONG_FLAGS = {"nonsense", "slot"}
