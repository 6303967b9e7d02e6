package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

type row map[string]any

// dice draw what is sent.
type dice struct {
	*rand.Rand
	volume int // how much larger batches are than usual
}

// upTo is a number of items from 1 to n, in usual batches.
func (r dice) upTo(n int) int { return 1 + r.IntN(n*r.volume) }

// request is drawn once and may be sent many times, with the same body.
type request struct {
	items int
	post  func(ctx context.Context, c *harness.Client) (*harness.Answer, error)
	again func(marker string) request // the same but for its marker
}

// draw makes a request of a kind that the dice choose.
func draw(marker string, r dice) request {
	door, seed := doors[r.IntN(len(doors))], r.Uint64()
	if r.IntN(200) == 0 {
		door = large
	}
	var again func(marker string) request
	again = func(marker string) request {
		req := door(marker, dice{rand.New(rand.NewPCG(seed, 0)), r.volume})
		req.again = again
		return req
	}
	return again(marker)
}

// doors make the requests, those that stand twice more often.
var doors = []func(marker string, r dice) request{helloID, helloID, web, purchases, referrals, mediahawk, mediahawk, avon, v1Accounts, v1Calls}

func helloID(marker string, r dice) request {
	changes := make([]row, r.upTo(30))
	for i := range changes {
		ch := row{"UserName": fmt.Sprintf("user-%d", r.IntN(users)), "ProductSKU": fmt.Sprintf("SKU-%d", r.IntN(products)), "Source": checker.Mark(marker, i)}
		switch r.IntN(6) {
		case 0:
			ch["HasProduct"] = r.IntN(2) == 0
		case 1:
			ch["Quantity"] = r.IntN(10)
		case 2:
			ch["IncreaseQuantityBy"] = r.IntN(11) - 5
		}
		changes[i] = ch
	}
	return request{items: len(changes), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) { return c.HelloID(ctx, changes) }}
}

func web(marker string, r dice) request {
	rows := make([]row, r.upTo(50))
	for i := range rows {
		rows[i] = event(marker, i, r)
		rows[i]["website"] = "www.example.org"
		if r.IntN(20) == 0 {
			rows[i]["performed_on"] = []int{7} // refused at the door
		}
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) { return c.Web(ctx, rows) }}
}

// large sends an event about as large as an item may be: a little less, or a little more, which is refused.
func large(marker string, r dice) request {
	rows := []row{event(marker, 0, r)}
	rows[0]["website"] = strings.Repeat("w", 1<<20-1<<15+r.IntN(1<<16))
	return request{items: 1, post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) { return c.Web(ctx, rows) }}
}

func purchases(marker string, r dice) request {
	rows := make([]row, r.upTo(30))
	for i := range rows {
		rows[i] = event(marker, i, r)
		rows[i]["reference_number"] = marker
		rows[i]["products_set"] = []row{{"product_identifier": row{"code": "LAMP"}, "net_amount": 50, "vat_amount": 10, "total_amount": 60}}
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) {
		return c.CRM(ctx, "purchases", "purchase_customer_events_set", rows)
	}}
}

func referrals(marker string, r dice) request {
	rows := make([]row, r.upTo(5))
	for i := range rows {
		rows[i] = row{
			"request_unique_identifier": checker.Mark(marker, i), "performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22",
			"referred_rewards_participant_identifier":    row{"number": participant(r.IntN(participants))},
			"referred_by_rewards_participant_identifier": row{"number": participant(r.IntN(participants))},
		}
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) {
		return c.CRM(ctx, "referrals", "referral_customer_events_set", rows)
	}}
}

// event is what all kinds of rows need; one in ten names an account that does not exist.
func event(marker string, i int, r dice) row {
	return row{
		"request_unique_identifier": checker.Mark(marker, i), "accounts_receivable_identifier": row{"number": account(r.IntN(accounts * 10 / 9))},
		"performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22T15:00:00",
	}
}

// mediahawk sends sales of few ids, each at most once in a batch, and sales without an id. One batch in twenty is refused whole.
func mediahawk(marker string, r dice) request {
	ids := r.Perm(sales)[:1+r.IntN(20)]
	rows := make([]row, len(ids))
	for i, id := range ids {
		s := sale(r)
		rows[i] = row{"description": checker.Mark(marker, i), "date": s.Date.Format(time.DateOnly), "value": *s.Value, "mhid": *s.MHID, "clis": *s.CLIs}
		if r.IntN(5) > 0 {
			rows[i]["id"] = saleID(id)
		}
	}
	if r.IntN(20) == 0 {
		rows[r.IntN(len(rows))]["date"] = "yesterday"
	}
	lookback := 1 + r.IntN(2)
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) {
		return c.Mediahawk(ctx, lookback, rows)
	}}
}

func saleID(i int) string { return fmt.Sprintf("sale-%d", i) }

// sale is a sale that may match a call or not: by its MHID, by one of its numbers, or because the calls of both are too old.
func sale(r dice) *schemas.Sale {
	date := firstCall.AddDate(0, 0, r.IntN(90)).Truncate(24 * time.Hour)
	value, mhid, numbers := fmt.Sprint(r.IntN(1000)), "", []string{callerNumber(r.IntN(2 * callers))}
	if r.IntN(2) == 0 {
		mhid = fmt.Sprintf("M-%d", r.IntN(visitors*4/3))
	}
	if r.IntN(3) == 0 {
		numbers = append(numbers, callerNumber(r.IntN(callers)), "withheld")
	}
	lookback := int32(1)
	return &schemas.Sale{Date: &date, Value: &value, MHID: &mhid, CLIs: &numbers, Lookback: &lookback, Properties: []schemas.SaleProperty{}}
}

// avon sends financial transactions; one call in twenty is refused whole.
func avon(marker string, r dice) request {
	rows := make([]row, r.upTo(30))
	for i := range rows {
		rows[i] = row{
			"orderNumber": checker.Mark(marker, i), "beeNumberCustomer": r.IntN(10), "transactionId": fmt.Sprint(r.IntN(20)),
			"transactionAmount": float64(r.IntN(10000)) / 100, "transactionTime": "2024-05-01T12:00:00Z",
		}
	}
	if r.IntN(20) == 0 {
		rows[r.IntN(len(rows))]["transactionAmount"] = "much"
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) { return c.Avon(ctx, rows) }}
}

// v1Accounts sends accounts of their own ids; one in ten is refused at the door.
func v1Accounts(marker string, r dice) request {
	rows := make([]row, r.upTo(20))
	for i := range rows {
		rows[i] = row{"ref": checker.Mark(marker, i), "id": fmt.Sprintf("%s-%d", marker, i), "number": fmt.Sprintf("new %s-%d", marker, i)}
		if r.IntN(10) == 0 {
			rows[i]["number"] = ""
		}
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) {
		return c.V1(ctx, "accounts", rows)
	}}
}

// v1Calls sends calls that are sent to Kafka as well, those of one batch perhaps several times.
func v1Calls(marker string, r dice) request {
	rows := make([]row, r.upTo(10))
	for i := range rows {
		c := call(r.IntN(calls), r)
		rows[i] = row{
			"ref": checker.Mark(marker, i), "id": c.ID, "started_at": c.StartedAt.Format(time.RFC3339), "caller_number": *c.CallerNumber, "mhid": *c.MHID,
			"campaign": *c.Campaign, "tags": []string{},
		}
	}
	return request{items: len(rows), post: func(ctx context.Context, c *harness.Client) (*harness.Answer, error) { return c.V1(ctx, "calls", rows) }}
}
