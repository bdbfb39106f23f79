//! What llama.cpp's options are here.

use Meaning::{Already, Batch, CacheType, Is, Keep, Layers, Model, Not, Plain, Takes, Talk, TalkTakes};

/// What an option is here.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The model's file, which is an argument here.
    Model,
    /// This option, with the same value.
    Takes(&'static str),
    /// These words.
    Is(&'static [&'static str]),
    /// This option of a conversation, or `--chat` itself.
    Talk(&'static str),
    /// This option of a conversation, with the same value.
    TalkTakes(&'static str),
    /// No conversation.
    Plain,
    /// Layers on a GPU.
    Layers,
    /// The type of keys, or that of values.
    CacheType,
    /// Tokens in a step.
    Batch,
    /// How many tokens of the beginning stay when others are dropped. None are.
    Keep,
    /// It is so anyway, for this reason.
    Already(&'static str),
    /// Nothing; this is said of it.
    Not(&'static str),
}

/// Names of one option, and what it is here.
pub type Row = (&'static [&'static str], Meaning);

/// Those of llama-cli and llama-completion, for `run` and `chat`.
pub const RUN: &[Row] = &[
    (&["-m", "--model"], Model),
    (&["-hf", "-hfr", "--hf-repo"], Takes("--hf")),
    (&["-c", "--ctx-size"], Takes("--ctx")),
    (&["--predict"], Takes("--n-predict")),
    (&["-b", "--batch-size", "-ub", "--ubatch-size"], Batch),
    (&["-ngl", "--n-gpu-layers"], Layers),
    (&["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"], CacheType),
    (&["--mlock"], Is(&["--lock"])),
    (&["--no-mmap"], Is(&["--load", "huge"])),
    (&["--mmap"], Is(&["--load", "map"])),
    (&["-r", "--reverse-prompt"], Takes("--stop")),
    (&["-jf"], Takes("--json-schema")),
    (&["--sampler-seq", "--sampling-seq"], Not("name the samplers in words: --samplers \"top_k;top_p;temperature\"")),
    (&["-cnv", "--conversation"], Talk("--chat")),
    (&["-no-cnv", "--no-conversation"], Plain),
    (&["-st"], Talk("--single-turn")),
    (&["-sys", "--system-prompt"], TalkTakes("--system")),
    (&["-sysf", "--system-prompt-file"], TalkTakes("--system-file")),
    (&["--chat-template-file"], Takes("--chat-template")),
    (&["--jinja"], Already("chat templates are always Jinja")),
    (&["--no-display-prompt"], Already("the prompt is never repeated")),
    (&["--no-escape"], Already("a prompt is taken as it is, unless --escape is given")),
    (&["--no-context-shift"], Already("nothing is ever dropped from the context")),
    (&["--no-warmup"], Already("there is no warm-up run")),
    (&["--keep"], Keep),
    (&["--log-disable", "--no-perf"], Is(&["--quiet"])),
    (&["-lv", "--log-verbosity", "--verbosity"], Not("leave it away: --quiet says less, --json all there is")),
    (&["-v", "--verbose"], Not("leave it away: --json says all there is")),
    (&["--log-file"], Not("standard error is the log: 2> FILE")),
    (
        &["-fa", "--flash-attn"],
        Not(
            "leave it away: attention always runs in blocks, without storing its scores (a prompt file named 'a' is -f a)",
        ),
    ),
    (&["-tb", "--threads-batch"], Not("prompt and answer run on the same threads: -t N")),
    (
        &["-C", "--cpu-mask", "-Cr", "--cpu-range", "--cpu-strict"],
        Not("taskset -c LIST nanoserve ... chooses the cores, -t N how many threads"),
    ),
    (&["--numa"], Not("numactl chooses the node: numactl -N 0 -m 0 nanoserve ...")),
    (&["--prio", "--poll"], Not("nice -n N nanoserve ... sets the priority")),
    (&["-dev"], Not("--device cpu, cuda or auto says where to run")),
    (
        &["-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu"],
        Not("one GPU is used: CUDA_VISIBLE_DEVICES chooses it, --gpu-layers how much of the model it takes"),
    ),
    (
        &["-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"],
        Not("--gpu-layers says how many layers the GPU takes"),
    ),
    (&["-nkvo", "--no-kv-offload"], Not("keys and values are where their layer is: --gpu-layers")),
    (
        &["-dt", "--defrag-thold", "--swa-full", "-kvu", "--kv-unified"],
        Not("leave it away: keys and values need no such setting here"),
    ),
    (
        &["--lora", "--lora-scaled", "--control-vector"],
        Not("merge the adapter into the checkpoint, then nanoserve convert it"),
    ),
    (
        &[
            "--override-kv",
            "--rope-scaling",
            "--rope-scale",
            "--rope-freq-base",
            "--rope-freq-scale",
            "--yarn-orig-ctx",
            "--yarn-ext-factor",
            "--yarn-attn-factor",
            "--yarn-beta-slow",
            "--yarn-beta-fast",
        ],
        Not("the model's file says it: change config.json and convert again"),
    ),
    (&["-i", "--interactive", "-if", "--interactive-first", "-ins"], Not("--chat talks by the model's template")),
    (&["-mli", "--multiline-input"], Not("in a conversation \"\"\" begins and ends a message of several lines")),
    (
        &["--in-prefix", "--in-suffix", "--in-prefix-bos"],
        Not("the chat template says what is around a message: --chat-template FILE"),
    ),
    (&["--no-jinja"], Not("chat templates are always Jinja: without --chat there is none")),
    (
        &["--reasoning-budget", "--reasoning-format"],
        Not("--chat-template-kwargs '{\"enable_thinking\": false}' does it where the template knows the word"),
    ),
    (&["-co", "--color"], Not("leave it away: a terminal gets colours, unless NO_COLOR is set")),
    (&["--simple-io"], Not("leave it away: what is no terminal gets plain text")),
    (
        &["--display-prompt", "--verbose-prompt"],
        Not("the prompt is not repeated: --render prints a conversation's, --json has its ids"),
    ),
    (&["--context-shift"], Not("nothing is dropped from the context: --ctx N makes it larger")),
    (&["-bf", "--binary-file"], Not("a prompt is text: -f FILE, or token ids: --ids")),
    (&["-np", "--parallel", "-ns", "--sequences"], Not("--n-samples N gives several answers to one prompt")),
    (
        &[
            "-md",
            "--model-draft",
            "--draft",
            "--draft-max",
            "--draft-min",
            "-lcs",
            "--lookup-cache-static",
            "-lcd",
            "--lookup-cache-dynamic",
        ],
        Not("--lookup [N] guesses from the text itself, without a second model"),
    ),
    (&["--dynatemp-range", "--dynatemp-exp", "--top-nsigma-min"], Not("--samplers lists the samplers there are")),
    (&["-gan", "-gaw", "--grp-attn-n", "--grp-attn-w"], Not("attention is the model's own")),
    (&["--kl-divergence-base"], Takes("--kl-base")),
    (
        &["--ppl-stride", "--ppl-output-type"],
        Not("windows stand side by side: --ctx is their length, --chunks their number"),
    ),
    (&["--check-tensors"], Not("--check holds every byte against its hash")),
    (&["--list-devices"], Not("--device auto says what it found")),
    (&["-mu", "--model-url"], Not("nanoserve convert FOLDER MODEL makes the file of a downloaded checkpoint")),
];

/// Those of llama-bench.
pub const BENCH: &[Row] = &[
    (&["-m", "--model"], Model),
    (&["--n-prompt"], Takes("--prompt")),
    (&["--n-depth"], Takes("--depth")),
    (&["--repetitions"], Takes("--rounds")),
    (&["-b", "--batch-size", "-ub", "--ubatch-size"], Batch),
    (&["-ngl", "--n-gpu-layers"], Layers),
    (&["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"], CacheType),
    (&["--no-warmup"], Not("a first round is never counted")),
    (&["-pg"], Not("each row is a prompt and what is generated after it: -p and -n")),
    (&["-mmp", "--mmap"], Not("--load map maps the file, --load huge copies it")),
    (&["-fa", "--flash-attn"], Not("leave it away: attention always runs in blocks, without storing its scores")),
    (
        &["-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu"],
        Not("one GPU is used: CUDA_VISIBLE_DEVICES chooses it"),
    ),
    (&["-C", "--cpu-mask", "--cpu-strict"], Not("taskset -c LIST nanoserve ... chooses the cores")),
    (&["--numa"], Not("numactl chooses the node: numactl -N 0 -m 0 nanoserve ...")),
    (&["--prio", "--poll", "--delay"], Not("leave it away: limits of the machine are measured after each round")),
    (&["-oe", "--output-err"], Not("rows go to standard output")),
    (&["-v", "--verbose", "--progress"], Not("leave it away: rows come as they are measured")),
    (
        &["-nkvo", "--no-kv-offload", "-ot", "--override-tensor", "-ncmoe", "--n-cpu-moe"],
        Not("--gpu-layers says how many layers the GPU takes"),
    ),
    (&["-embd", "--embeddings"], Not("embeddings are not measured")),
];
