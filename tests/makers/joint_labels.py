"""The structures of the paper's joints, and their values in label maps."""

LABELS = {
    "ankle": {"calcaneus": 1, "talus": 2, "tibia": 3},
    "knee": {"femur": 1, "fibula": 2, "patella": 3, "tibia": 4},
    "shoulder": {"humerus": 1, "scapula": 2},
}
