"""A site that is asked for a pre-trained encoder: its weights come from this machine or not at all."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_sites import write_sites

CODE = """
import sys
from dataclasses import replace
from pathlib import Path
from asked import PLAN
from tiny_sites import own_settings
from client.site import open_site
from mtmd_core.errors import ConfigurationError, site_error_of

asked = []
sys.addaudithook(lambda event, arguments: asked.append(event) if event.startswith("socket.") else None)
site = open_site(own_settings("knee", Path(sys.argv[1]) / "state", Path(sys.argv[2])))
try:
    site.train(replace(PLAN, network="efficient_unet", encoder_weights="imagenet", slice_size=32), {})
except ConfigurationError as error:
    print(site_error_of(error).value, error)
print("asked of the network:", sorted(set(asked)))
"""


def test_a_site_without_the_weights_neither_calls_nor_looks_up_anything(tmp_path: Path) -> None:
    """Python tells of each call before it is made, whether it would succeed or not."""
    data = write_sites(tmp_path, sites={"knee": 2})["knee"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CODE, str(tmp_path), str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.startswith(
        "plan_refused the ImageNet weights of efficientnet_b3 are not in this machine's cache"
    )
    assert f"to {tmp_path / 'home' / 'hub'} here" in done.stdout
    assert done.stdout.endswith("asked of the network: []\n")
