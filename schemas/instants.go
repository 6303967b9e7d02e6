package schemas

import "time"

// Instants and days that can be kept lie at or after EarliestInstant and before BeyondInstant: ClickHouse's DateTime64 begins with the first,
// its nanoseconds end in the year after the last, and the driver writes what lies outside as another instant, without an error.
var (
	EarliestInstant = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	BeyondInstant   = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

// InstantFits reports that an instant or a day, at its midnight in UTC, can be kept.
func InstantFits(t time.Time) bool { return !t.Before(EarliestInstant) && t.Before(BeyondInstant) }
