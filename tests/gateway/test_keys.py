from expertmesh.gateway.keys import ApiKeys


def test_without_keys_everybody_may_call():
    keys = ApiKeys()
    assert keys.accept(None)
    assert keys.accept("Bearer anything")


def test_only_callers_with_a_key_may_call():
    keys = ApiKeys(["first", "sécond"])
    assert keys.accept("Bearer first")
    assert keys.accept("bearer sécond")
    for refused in (None, "", "Bearer", "Bearer ", "Bearer firs", "Bearer first2", "Basic first", "first"):
        assert not keys.accept(refused)
