from expertmesh.counting.histogram import Histogram, HistogramSnapshot


def test_a_value_falls_into_the_first_bucket_that_holds_it():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3, 300):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert (histogram.num_values, histogram.sum) == (6, 308)


def test_a_snapshot_stays_as_it_was():
    histogram = Histogram((1, 2))
    histogram.observe(1.5)
    snapshot = histogram.snapshot()
    histogram.observe(1.5)
    assert snapshot == HistogramSnapshot(bounds=(1, 2), counts=(0, 1, 0), sum=1.5)
