"""One file, one method, one paper. A method is a frozen dataclass of numbers with ``init``, ``step``, ``score``,
``members`` and ``finish``; the engine drives them all."""
