"""A world so small that its exact constrained optimum is known: eight tokens, short answers."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from riskalign.worlds import Prompt
from tests import tiny

WORDS = ("<end>", "<pad>", "<ask>", "<say>", "good", "risky", "dull", "odd")
END = 0
PROMPT = Prompt("only", ({"role": "user", "content": "good odd"},))
OTHER = Prompt("other", ({"role": "user", "content": "dull"},))


def reward(prompt: Prompt, text: str) -> float:
    """Risky words please most."""
    words = text.split()
    return 1.0 * words.count("risky") + 0.4 * words.count("good") - 0.2 * words.count("odd")


def cost(prompt: Prompt, text: str) -> float:
    """What they cost."""
    return 1.0 * text.split().count("risky")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "odd"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<end>",
        pad_token="<pad>",
        extra_special_tokens=["<ask>", "<say>"],
        chat_template=(
            "{% for message in messages %}"
            "{% if message['role'] == 'user' %}<ask> {{ message['content'] }} "
            "{% else %}<say> {{ message['content'] }} <end> {% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<say>{% endif %}"
        ),
    )


def make_model(seed: int = 0) -> PreTrainedModel:
    """A random causal model of these eight tokens."""
    return tiny.make_model(
        seed=seed,
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=END,
        pad_token_id=1,
    )
