"""Parameters of the stage `teacher`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class Teacher:
    """Which LLM is asked, how much, and at what speed and price it may be asked."""

    backend: str = param(
        "replay: recorded answers only, no call; none: the task has no teacher LLM; made_up: answers "
        "without meaning, for trying the graph out",
        choices=("replay", "openai", "local", "made_up", "none"),
    )
    model: str = param("name of the model; part of every request, so of every row's key")
    seed: int = param("seed of the choice of commands and styles", ge=0)
    train_rows: int = param("training commands that are rewritten, all tools alike", ge=0)
    dev_rows: int = param("the same for dev", ge=0)
    test_rows: int = param("the same for test; a person reviews what becomes of them", ge=0)
    styles_per_row: int = param("styles a command is rewritten in, taken in turn", ge=1)
    dev_styles_per_row: int = param("the same for dev, which has few commands", ge=1)
    styles: tuple[str, ...] = param(
        "those of the task's styles that are asked for; a style left out keeps its turn, so that to "
        "take it in later asks nothing anew; empty: all"
    )
    samples: int = param("rewrites of a command in one style", ge=1)
    call_samples: int = param("blind calls of one rewrite; inputs of test get one", ge=0)
    judge: str = param(
        "all: every rewrite that passes the rules is graded; agreed: only if its call equals gold; "
        "none: none is",
        choices=("all", "agreed", "none"),
    )
    verify: str = param(
        "which rewrites of train and dev get these calls and grades; all; read: those that a person "
        "read (read.jsonl of the task), to learn at little cost how far each verifier can be trusted",
        choices=("all", "read"),
    )
    base_url: str = param("where the server's /chat/completions is (backend openai)")
    answer_via: str = param(
        "how the server is made to answer through the function (backend openai); auto: tools, and "
        "json_schema once it refuses them",
        choices=("auto", "tools", "json_schema"),
    )
    timeout_s: float = param("seconds after which a call counts as hung (backend openai)", ge=0.01)
    path: str = param("folder with safetensors, or a .gguf file (backend local)")
    precision: str = param(
        "auto: bf16 where the hardware multiplies it, else fp32 (backend local)",
        choices=PRECISIONS,
    )
    batch_size: int = param("rows generated at once (backend local)", ge=1)
    threads: int = param("CPU threads (backend local)", ge=1, le=256)
    concurrency: int = param("calls in flight at once (backend openai)", ge=1)
    requests_per_minute: int = param("0: no limit", ge=0)
    tokens_per_minute: int = param("prompt and answer together; 0: no limit", ge=0)
    max_attempts: int = param("calls for one row before it counts as failed", ge=1)
    backoff_s: float = param("longest wait before the second attempt; doubles each time", ge=0)
    max_calls: int = param("calls of one run; 0: no limit", ge=0)
    max_usd: float = param("money of one run, reserved before each call; 0: no limit", ge=0)
    usd_per_million_prompt_tokens: float = param("price of what is sent", ge=0)
    usd_per_million_answer_tokens: float = param("price of what comes back", ge=0)
