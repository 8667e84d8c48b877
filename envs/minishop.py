"""MiniShop: find what is wanted in a shop, choose its colour, buy it."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np

from agentgrpo.checks import typed
from agentgrpo.envs.base import View, in_range
from agentgrpo.envs.tools import Tool, ToolEnv

Choice = TypeVar("Choice")

KINDS = ("shirt", "coat", "scarf", "hat", "dress", "skirt", "vest", "belt")
MATERIALS = ("cotton", "wool", "linen", "silk", "leather", "denim")
COLORS = ("red", "blue", "green", "black", "white", "grey")
LIMITS = (20, 30, 40, 50)
LOWEST, HIGHEST, PRICE_STEP = 10, 60, 5
BACK = "back"
LETTERS = "abcdefgh"
"""What the products of a page are called. Those that a search finds beyond these are not shown."""


class Product(NamedTuple):
    """Something on sale, in colours of which one is chosen before buying."""

    kind: str
    material: str
    price: int
    colors: tuple[str, ...]

    @property
    def words(self) -> set[str]:
        """What it is found by."""
        return {self.kind, self.material, *self.colors}

    def __str__(self) -> str:
        return f"{self.material} {self.kind}, {self.price}"


class Wish(NamedTuple):
    """What is to be bought."""

    kind: str
    material: str
    color: str
    limit: int | None
    """The price must be below it; None: any price."""

    def __str__(self) -> str:
        price = "" if self.limit is None else f" below {self.limit}"
        return f"a {self.color} {self.material} {self.kind}{price}"

    def fits(self, product: Product, color: str) -> list[bool]:
        """For each attribute that is asked for, whether a product in a colour has it."""
        same = [product.kind == self.kind, product.material == self.material, color == self.color]
        return same if self.limit is None else [*same, product.price < self.limit]


class Shop(NamedTuple):
    """What is fixed in an episode."""

    products: tuple[Product, ...]
    wish: Wish


class Page(NamedTuple):
    """What the customer looks at: the search page, results, or a product."""

    found: tuple[int, ...] = ()
    """Results, as numbers of products; empty on the search page."""
    product: int | None = None
    color: str = ""
    """The one that is chosen; empty: none yet."""
    in_vain: bool = False
    """Whether the search page follows a search that found nothing."""
    bought: bool = False


class MiniShopEnv(ToolEnv[Shop, Page]):
    """A shop like WebShop's, small. Tools: ``search[words]``, ``click[item]`` and ``buy``.

    A search finds the products that have one of its words as kind, material or colour, those with most of them
    first, and names them a, b, .. ``click[a]`` opens one, ``click[red]`` then chooses a colour, ``buy`` ends the
    episode, and ``click[back]`` leads from a product to the results and from there to the search page, the only one to
    search from. Exactly one product fits the wish: others of its kind are of another material or too dear. The listed
    searches are the words that the shop knows.

    Args:
        kinds: kinds of products, 1..8.
        variants: products of each kind, 1..6.
        colors: colours in which each product is sold, 2..6.
        words: how many kinds, materials and colours there are to draw from, at most, in all shops: the language that is
            to be learned; ``kinds`` or ``colors``, whichever is more, ..8.
        price_limit: whether the wish names a price.
        partial_reward: whether a wrong purchase earns the share of the wish's attributes that it has.
        max_turns: calls per episode.
        tool_format: how calls are written, text | json.
    """

    tools: ClassVar[tuple[Tool, ...]] = (Tool("search", "words"), Tool("click", "item"), Tool("buy"))

    def __init__(
        self,
        kinds: int = 2,
        variants: int = 2,
        colors: int = 3,
        words: int = 8,
        price_limit: bool = True,
        partial_reward: bool = False,
        max_turns: int = 8,
        tool_format: str = "text",
    ) -> None:
        super().__init__(max_turns, tool_format)
        self.kinds = in_range("kinds", kinds, 1, len(KINDS))
        self.variants = in_range("variants", variants, 1, 6)
        self.colors = in_range("colors", colors, 2, len(COLORS))
        in_range("words", words, max(kinds, colors), len(KINDS))
        self._kinds, self._materials, self._colors = KINDS[:words], MATERIALS[:words], COLORS[:words]
        typed("price_limit", price_limit, bool)
        typed("partial_reward", partial_reward, bool)
        self.price_limit = price_limit
        self.partial_reward = partial_reward

    def _new_task(self) -> str:
        rng = self.np_random
        kinds = [self._kinds[i] for i in rng.permutation(len(self._kinds))[: self.kinds]]
        material, color = _one(self._materials, rng), _one(self._colors, rng)
        limit = _one(LIMITS, rng) if self.price_limit else None
        wish = Wish(kinds[0], material, color, limit)
        products = [self._fitting(wish, rng)]
        products += [self._other(wish, kinds[0], rng) for _ in range(self.variants - 1)]
        products += [self._any(kind, rng) for kind in kinds[1:] for _ in range(self.variants)]
        self.task = Shop(tuple(products[i] for i in rng.permutation(len(products))), wish)
        self.state = Page()
        return f"{self._how_to_answer()} Goal: buy {wish}."

    def _fitting(self, wish: Wish, rng: np.random.Generator) -> Product:
        others = [color for color in self._colors if color != wish.color]
        drawn = [others[i] for i in rng.permutation(len(others))[: self.colors - 1]]
        price = _price(LOWEST, HIGHEST if wish.limit is None else wish.limit, rng)
        return Product(wish.kind, wish.material, price, tuple(sorted([wish.color, *drawn])))

    def _other(self, wish: Wish, kind: str, rng: np.random.Generator) -> Product:
        """One of the kind asked for that does not fit: half of them are too dear, where there is a limit."""
        product = self._any(kind, rng)
        if wish.limit is not None and rng.random() < 0.5:
            return product._replace(material=wish.material, price=_price(wish.limit, HIGHEST, rng))
        others = [material for material in self._materials if material != wish.material]
        return product._replace(material=_one(others, rng))

    def _any(self, kind: str, rng: np.random.Generator) -> Product:
        colors = tuple(sorted(self._colors[i] for i in rng.permutation(len(self._colors))[: self.colors]))
        return Product(kind, _one(self._materials, rng), _price(LOWEST, HIGHEST, rng), colors)

    def _view(self) -> View:
        text = self._text()
        found, number, *_ = self.state
        # Products may read alike and differ in colours, and the text of one does not tell what lies behind `back`.
        anchor = f"{text} Results {found}, product {number}." if found else text
        return View(text, anchor, sorted(self._write(*call) for call in self._calls()))

    def _calls(self) -> list[tuple[str, str]]:
        """Tools with arguments that mean something on this page."""
        found, number, *_ = self.state
        if not found:
            words = {word for product in self.task.products for word in product.words}
            return [("search", word) for word in sorted(words)]
        clicks = [("click", item) for item in [*self._items(), BACK]]
        return clicks if number is None else [*clicks, ("buy", "")]

    def _expected(self) -> str:
        if not self.state.found:
            return self._by_name["search"].sketch(self.tool_format)
        *first, last = (self._write(*call) for call in self._calls())
        return f"{', '.join(first)} or {last}" if first else last

    def _text(self) -> str:
        products, wish = self.task
        found, number, color, in_vain, bought = self.state
        if bought:
            return "You have bought what was asked for." if self._outcome() else f"Bought, but not {wish}."
        if number is not None:
            choice = f"Chosen: {color}." if color else f"Colours: {', '.join(products[number].colors)}."
            return f"{products[number]}. {choice}"
        if found:
            return " ".join(f"{letter}: {products[i]}." for letter, i in zip(LETTERS, found, strict=False))
        return "Nothing found. Search again." if in_vain else "Search page."

    def _items(self) -> list[str]:
        """Products or colours that can be clicked."""
        found, number, color, *_ = self.state
        if number is not None:
            return [other for other in self.task.products[number].colors if other != color]
        return list(LETTERS[: len(found)])

    def _possible(self, name: str, argument: str) -> bool:
        if name == "search":
            return not self.state.found
        return (name, argument.lower()) in self._calls()

    def _use(self, name: str, argument: str) -> None:
        found, number, *_ = self.state
        item = argument.lower()
        if name == "search":
            found = self._search(item)
            self.state = Page(found, in_vain=not found)
        elif name == "buy":
            self.state = self.state._replace(bought=True)
        elif item == BACK:
            self.state = Page() if number is None else Page(found)
        elif number is None:
            self.state = Page(found, found[LETTERS.index(item)])
        else:
            self.state = self.state._replace(color=item)

    def _search(self, query: str) -> tuple[int, ...]:
        words = set(query.split())
        hits = [len(words & product.words) for product in self.task.products]
        best_first = sorted(range(len(hits)), key=lambda i: -hits[i])  # stable: the shop's order among equals
        return tuple(i for i in best_first if hits[i])[: len(LETTERS)]

    def _fit(self) -> list[bool]:
        number = self.state.product
        assert number is not None, "only a product can be bought"
        return self.task.wish.fits(self.task.products[number], self.state.color)

    def _outcome(self) -> bool | None:
        return all(self._fit()) if self.state.bought else None

    def _reward(self, outcome: bool | None) -> float:
        if outcome is False and self.partial_reward:
            fit = self._fit()
            return sum(fit) / len(fit)
        return super()._reward(outcome)

    def _plan(self) -> list[str]:
        products, wish = self.task
        found, number, color, *_ = self.state
        (target,) = (i for i, product in enumerate(products) if all(wish.fits(product, wish.color)))
        calls = [("buy", "")] if (number, color) == (target, wish.color) else [("click", wish.color), ("buy", "")]
        if number != target:
            listed = target in found
            results = found if listed else self._search(wish.kind)
            calls.insert(0, ("click", LETTERS[results.index(target)]))
            if not listed:
                calls.insert(0, ("search", wish.kind))
            # From a product back to the results, and on to the search page if they do not show what is wanted.
            calls = [("click", BACK)] * ((number is not None) + (bool(found) and not listed)) + calls
        return [self._write(*call) for call in calls]


def _one(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.integers(len(choices)))]


def _price(low: int, high: int, rng: np.random.Generator) -> int:
    """Draw a price from ``low`` to below ``high``."""
    return int(rng.integers(low // PRICE_STEP, high // PRICE_STEP)) * PRICE_STEP
