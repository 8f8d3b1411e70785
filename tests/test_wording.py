"""Numbers and quoted messages as they stand in sentences."""

from ml_backend.wording import amount, shortened


def test_one_is_singular_and_all_else_is_plural() -> None:
    assert [amount(n, "task") for n in (0, 1, 1200)] == ["0 tasks", "1 task", "1,200 tasks"]
    assert amount(2, "query", "queries") == "2 queries"


def test_a_long_message_ends_after_a_whole_word() -> None:
    said = shortened("the environment variables are unset, so nothing is served", 35)
    assert said == "the environment variables are …"
    assert shortened("two\n lines") == "two lines"
    assert len(shortened("x" * 600)) <= 502
