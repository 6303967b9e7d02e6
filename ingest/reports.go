package ingest

import (
	"context"

	"github.com/counterfoil/counterfoil/schemas"
)

// Reports is what ingest asks of ClickHouse; sinks/clickhouse has it. Every question names the tenant, and an answer never holds another's
// rows. Who needs to see what was just written asks [Service.WaitForSink] first.
type Reports interface {
	// Ownership is who owns a product now, by the folded SKU (schemas.Fold), in the order of the folded user names. Empty: nobody does.
	Ownership(ctx context.Context, tenant, skuKey string) ([]schemas.OwnershipReport, error)
	// BuyingReport is what a customer bought, in the order of the products' codes. Empty: nothing, or there is no such customer.
	BuyingReport(ctx context.Context, p schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error)
	// Batch is the batch with the given number; nil: there is none (yet) of this tenant.
	Batch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error)
	// Batches are the newest first, with numbers below before (0: from the newest on), at most limit.
	Batches(ctx context.Context, tenant string, before int64, limit int) ([]schemas.BatchReport, error)
	// DoorBatches are those that came in by one door, the newest first, without the first offset of them, at most limit.
	DoorBatches(ctx context.Context, tenant, door string, offset int64, limit int) ([]schemas.BatchReport, error)
	// BatchItems are the items of a batch whose last attempt was processed, or was not, by index, with indexes above after (-1: from the
	// first on), at most limit. kind is the one whose result topics have the batch's outcomes.
	BatchItems(ctx context.Context, tenant, kind, batchKey string, processed bool, after int32, limit int) ([]schemas.ItemReport, error)
	// BatchOutcomes are the outcomes of the first attempts of a batch's items, by index, those that are there already: what the request that
	// made the batch was told, or would have been. kind is that of the batch's result topics.
	BatchOutcomes(ctx context.Context, tenant, kind, batchKey string) ([]schemas.OutcomeReport, error)
}
