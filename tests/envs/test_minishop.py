"""MiniShop: one shop by hand, the dials, and what a wrong purchase earns."""

import pytest

from agentgrpo.envs.minishop import MiniShopEnv, Page, Product, Shop, Wish

SHOP = Shop(
    (
        Product("shirt", "cotton", 45, ("blue", "red")),
        Product("hat", "wool", 10, ("black", "red")),
        Product("shirt", "cotton", 25, ("green", "red")),
    ),
    Wish("shirt", "cotton", "red", 30),
)


def in_shop(page: Page = Page(), *, partial_reward: bool = False) -> MiniShopEnv:  # noqa: B008 - immutable
    env = MiniShopEnv(partial_reward=partial_reward)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(SHOP, page, "by hand", 0, 0, None))
    return env


def test_the_way_to_the_shirt_by_hand() -> None:
    env = in_shop()
    plan = ["search[shirt]", "click[b]", "click[red]", "buy"]
    assert env.oracle_actions() == plan
    texts = [env.step(action)[0] for action in plan[:-1]]
    assert texts == [
        "a: cotton shirt, 45. b: cotton shirt, 25.",
        "cotton shirt, 25. Colours: green, red.",
        "cotton shirt, 25. Chosen: red.",
    ]
    text, reward, terminated, _, info = env.step("buy")
    assert (text, reward, terminated, info["success"]) == ("You have bought what was asked for.", 1.0, True, True)


def test_listed_actions_follow_the_page() -> None:
    env = in_shop()
    words = ["black", "blue", "cotton", "green", "hat", "red", "shirt", "wool"]
    start = [f"search[{word}]" for word in words]
    assert env.restore(env.snapshot())[1]["admissible_actions"] == start
    seen = [env.step(action)[4]["admissible_actions"] for action in ["search[hat]", "click[a]", "click[red]"]]
    assert seen == [
        ["click[a]", "click[back]"],
        ["buy", "click[back]", "click[black]", "click[red]"],
        ["buy", "click[back]", "click[black]"],
    ]
    assert env.step("click[back]")[0] == "a: wool hat, 10."
    text, *_, info = env.step("click[back]")
    assert (text, info["admissible_actions"]) == ("Search page.", start)


@pytest.mark.parametrize(
    ("page", "action"),
    [
        (Page(), "click[a]"),
        (Page(), "click[back]"),
        (Page(), "buy"),
        (Page((0, 2)), "click[c]"),
        (Page((0, 2)), "buy"),
        (Page((0, 2)), "search[hat]"),
        (Page((0, 2), 0), "click[green]"),
        (Page((0, 2), 0), "click[a]"),
        (Page((0, 2), 0, "red"), "click[red]"),
    ],
)
def test_what_is_not_on_the_page_is_not_possible(page: Page, action: str) -> None:
    text, _, _, _, info = in_shop(page).step(action)
    assert info["valid_action"] is False
    assert text.startswith("Not possible. Answer with ")


def test_a_refusal_names_what_can_be_done_on_the_page() -> None:
    assert "with click[a], click[b] or click[back]. a:" in in_shop(Page((0, 2))).step("buy")[0]
    assert "with search[words]. Search page." in in_shop().step("buy")[0]
    assert "with click[black], click[back] or buy." in in_shop(Page((1,), 1, "red")).step("search[hat]")[0]


def test_a_search_puts_those_with_most_words_first() -> None:
    assert in_shop().step("search[green cotton SHIRT below 30]")[0] == "a: cotton shirt, 25. b: cotton shirt, 45."
    assert in_shop().step("search[red]")[0].count(":") == 3
    env = in_shop()
    text, *_, info = env.step("search[umbrella]")
    assert text == "Nothing found. Search again."
    assert info["valid_action"] is True
    assert env.oracle_actions() == ["search[shirt]", "click[b]", "click[red]", "buy"]


@pytest.mark.parametrize(
    ("page", "plan"),
    [
        (Page((1,), 1, "red"), ["click[back]", "click[back]", "search[shirt]", "click[b]", "click[red]", "buy"]),
        (Page((2, 0), 0, "red"), ["click[back]", "click[a]", "click[red]", "buy"]),
        (Page((2,), 2, "green"), ["click[red]", "buy"]),
        (Page((2,), 2, "red"), ["buy"]),
    ],
)
def test_the_oracle_finds_the_way_from_every_page(page: Page, plan: list[str]) -> None:
    env = in_shop(page)
    assert env.oracle_actions() == plan
    assert [env.step(action)[1] for action in plan][-1] == 1.0


@pytest.mark.parametrize(
    ("page", "share"),
    [
        (Page((0, 2), 0, "red"), 0.75),  # too dear
        (Page((0, 2), 0, "blue"), 0.5),
        (Page((0, 2), 2), 0.75),  # no colour chosen
        (Page((1,), 1, "black"), 0.25),  # a cheap hat
    ],
)
def test_a_wrong_purchase_earns_its_share_only_if_asked_for(page: Page, share: float) -> None:
    for partial_reward, expected in [(False, 0.0), (True, share)]:
        text, reward, terminated, _, info = in_shop(page, partial_reward=partial_reward).step("buy")
        assert text == "Bought, but not a red cotton shirt below 30."
        assert (reward, terminated, info["success"]) == (expected, True, False)
    assert in_shop(Page((2,), 2, "red"), partial_reward=True).step("buy")[1] == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Page((2,), 2, "red"), Page((0, 2), 2, "red")),  # `back` leads to other results
        (Page((0,)), Page((1,))),  # products that read alike and come in other colours
        (Page((0, 1), 0, "red"), Page((0, 1), 1, "red")),
    ],
)
def test_anchor_tells_pages_apart_that_read_alike(one: Page, other: Page) -> None:
    hats = (Product("hat", "wool", 10, ("blue", "red")), Product("hat", "wool", 10, ("green", "red")))
    shop = Shop((*hats, SHOP.products[2]), SHOP.wish)
    env = in_shop()
    snapshot = env.snapshot()
    first, second = (env.restore(type(snapshot)(shop, page, "by hand", 0, 0, None)) for page in (one, other))
    assert first[0] == second[0]
    assert first[1]["anchor"] != second[1]["anchor"]


@pytest.mark.parametrize(("kinds", "variants", "colors"), [(1, 1, 2), (2, 2, 3), (4, 3, 3), (8, 6, 6)])
@pytest.mark.parametrize("price_limit", [False, True])
def test_exactly_one_product_fits_and_can_be_bought(kinds: int, variants: int, colors: int, price_limit: bool) -> None:
    env = MiniShopEnv(kinds=kinds, variants=variants, colors=colors, price_limit=price_limit)
    for seed in range(60):
        text, _ = env.reset(seed=seed)
        products, wish = env.task
        assert ("below" in text) == price_limit
        assert len(products) == kinds * variants
        assert len({product.kind for product in products}) == kinds
        assert all(len(set(product.colors)) == colors for product in products)
        assert sum(all(wish.fits(product, color)) for product in products for color in product.colors) == 1
        results = [env.step(action) for action in env.oracle_actions()]
        assert [result[1] for result in results] == [0.0, 0.0, 0.0, 1.0]


def test_few_words_are_enough_for_all_shops() -> None:
    env = MiniShopEnv(words=3)
    known: set[str] = set()
    for seed in range(60):
        env.reset(seed=seed)
        known.update(word for product in env.task.products for word in product.words)
    assert known == {"shirt", "coat", "scarf", "cotton", "wool", "linen", "red", "blue", "green"}


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"kinds must be an integer from 1 to 8, got 9\."):
        MiniShopEnv(kinds=9)
    with pytest.raises(ValueError, match=r"variants must be an integer from 1 to 6, got 0\."):
        MiniShopEnv(variants=0)
    with pytest.raises(ValueError, match=r"colors must be an integer from 2 to 6, got 1\."):
        MiniShopEnv(colors=1)
    with pytest.raises(ValueError, match=r"words must be an integer from 4 to 8, got 3\."):
        MiniShopEnv(kinds=4, words=3)
    with pytest.raises(ValueError, match="partial_reward must be true or false, got 'yes'"):
        MiniShopEnv(partial_reward="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="price_limit must be true or false, got 30"):
        MiniShopEnv(price_limit=30)  # type: ignore[arg-type]
