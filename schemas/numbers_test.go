package schemas

import "testing"

// Numbers go on where those of a topic's former life ended, and a number leads back to its place.
func TestNumbersGoOnAfterAFormerLife(t *testing.T) {
	e := Epochs{Batches: {Number: 1, Base: 100}, KindCustomerEvents: {Number: 1, Base: 1000}}
	if first, second := e.BatchNumber(0), e.BatchNumber(3); first != 101 || second != 104 {
		t.Errorf("batches at 0 and 3 have the numbers %d and %d, want 101 and 104", first, second)
	}
	if at, before := e.BatchOffset(104), e.BatchOffset(100); at != 3 || before >= 0 {
		t.Errorf("batches 104 and 100 lie at %d and %d, want 3 and nowhere", at, before)
	}
	if first, second := e.ItemNumber(KindCustomerEvents, 0, 0, 4), e.ItemNumber(KindCustomerEvents, 2, 5, 4); first != 1001 || second != 1023 {
		t.Errorf("events have the numbers %d and %d, want 1001 and 1023", first, second)
	}
	if n := e.ItemNumber(KindReferrals, 0, 0, 4); n != 1 {
		t.Errorf("the first referral of a topic in its first life has the number %d", n)
	}
}
