import subprocess
import sys

from llm360_trainer.model import is_out_of_memory


def test_the_machines_own_lack_of_memory_is_known():
    program = (
        "import resource, torch\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))\n"
        "try:\n    torch.empty(1 << 34)\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stdout
    assert is_out_of_memory(RuntimeError(said)), said
