"""What annotators read of a label, to be read by a model as well."""

from __future__ import annotations

from ml_backend.labelstudio.choice_texts import choice_texts
from ml_backend.labelstudio.config import parse_label_config

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="other" toName="image" perRegion="true"><Choice value="cat" hint="of another question"/></Choices>
<Choices name="kind" toName="image">
  <Choice value="cat" alias="c" hint="a domestic cat,
    not a lynx"/>
  <Choice value="snow_leopard" html="&lt;b&gt;from&lt;/b&gt; Asia"/>
  <Choice value="$name" alias="dog" hint="$told"/>
  <Choice value="owl"/>
</Choices></View>"""


def test_a_label_says_what_annotators_read_of_it() -> None:
    schema = parse_label_config(CONFIG)
    assert schema.labels == ("c", "snow_leopard", "dog", "owl")
    assert choice_texts(CONFIG, schema) == [
        ("cat", "a domestic cat, not a lynx"),
        ("snow_leopard", "from Asia"),
        ("dog", ""),
        ("owl", ""),
    ]


def test_a_label_that_the_config_has_no_more_is_its_own_name() -> None:
    schema = parse_label_config(CONFIG)
    assert choice_texts("<View/>", schema) == [(label, "") for label in schema.labels]
    assert choice_texts("<", schema)[0] == ("c", "")
