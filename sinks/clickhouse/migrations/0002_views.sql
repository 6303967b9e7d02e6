-- The views that analysts read. None of them needs FINAL in a query: where it is needed it stands in here.

CREATE VIEW IF NOT EXISTS {{table "accounts"}} AS
SELECT `tenant`, `version`, `id`, `number`, `name`, `payment_medium_types`, `payment_medium_brands`
FROM {{table "accounts_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "participants"}} AS
SELECT `tenant`, `version`, `id`, `number`, `account_id`
FROM {{table "participants_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "units"}} AS
SELECT `tenant`, `version`, `id`, `name`, `alternative_code`, `currency_id`, `currency_code`
FROM {{table "units_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "classifications"}} AS
SELECT `tenant`, `version`, `id`, `name`, `alternative_code`, `kind`
FROM {{table "classifications_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "products"}} AS
SELECT `tenant`, `version`, `id`, `id_key`, `number`, `code`, `alternative_code`, `description`, `barcodes`
FROM {{table "products_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "payment_medium_types"}} AS
SELECT `tenant`, `version`, `id`, `name`, `alternative_code`
FROM {{table "payment_medium_types_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "payment_medium_brands"}} AS
SELECT `tenant`, `version`, `id`, `name`, `alternative_code`
FROM {{table "payment_medium_brands_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "kpis"}} AS
SELECT `tenant`, `version`, `id`, `name`, `alternative_code`
FROM {{table "kpis_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "invoices"}} AS
SELECT `tenant`, `version`, `id`, `number`, `reference_number`, `back_office_code`
FROM {{table "invoices_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "api_keys"}} AS
SELECT `tenant`, `version`, `id`, `doors`, `allowed_ips`, `rate_limit`, `enabled`, `note`, `created_at`
FROM {{table "api_keys_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "customers"}} AS
SELECT `tenant`, `version`, `id`, `account_number`, `name`
FROM {{table "customers_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "customer_parts"}} AS
SELECT `tenant`, `version`, `customer`, `product`, `product_key`, `part_number`
FROM {{table "customer_parts_state"}} FINAL;

-- Not FINAL: the table keeps what a call said before it was moved.
CREATE VIEW IF NOT EXISTS {{table "calls"}} AS
SELECT `tenant`, `version`, `id`, `started_at`, `caller_number`, `number_key`, `mhid`, `visitor_id`, `service_number`,
    `terminating_number`, `campaign`, `source`, `medium`, `keyword`, `first_source`, `first_medium`, `first_keyword`, `google_click_id`,
    `google_client_id`, `media_channel`, `media_owner`, `media_description`, `department`, `tags`, `call_ref`, `page_uri`, `page_title`,
    `landing_page_uri`, `landing_page_title`
FROM (
    SELECT * FROM {{table "calls_state"}}
    ORDER BY tenant, id, version DESC
    LIMIT 1 BY tenant, id
)
WHERE is_deleted = 0;

CREATE VIEW IF NOT EXISTS {{table "stock"}} AS
SELECT `tenant`, `version`, `product`, `product_key`, `available_now`, `physical`, `next_available_on`, `next_available_quantity`
FROM {{table "stock_state"}} FINAL;

-- The last version of each sale, matched or not. A sale without an id of its own is one for itself.
CREATE VIEW IF NOT EXISTS {{table "sales_current"}} AS
SELECT * FROM {{table "sales"}}
ORDER BY tenant, sale_key, version DESC, attempt DESC
LIMIT 1 BY tenant, sale_key;

-- The transactions without those that a later one of the same natural key replaces. Absent members are equal to each other; a transaction
-- without transaction_id replaces none and is replaced by none.
CREATE VIEW IF NOT EXISTS {{table "transactions_current"}} AS
SELECT * FROM {{table "transactions"}}
ORDER BY accepted_at DESC, source_epoch DESC, source_offset DESC, source_partition DESC, attempt DESC
LIMIT 1 BY tenant, bee_number_customer, transaction_id, transaction_bill_seq, transaction_time, if(ifNull(transaction_id, '') = '', id, '');

-- What everybody owns now, in the spelling sent last. Not FINAL: on a cluster the rows of one key may lie on several shards.
CREATE VIEW IF NOT EXISTS {{table "ownership_current"}} AS
SELECT tenant, user_key, sku_key,
    tupleElement(last, 1) AS user_name, tupleElement(last, 2) AS product_sku, tupleElement(last, 3) AS quantity,
    tupleElement(last, 4) AS source, tupleElement(last, 5) AS time_of_approval, last_version AS version
FROM (
    SELECT tenant, user_key, sku_key, max(version) AS last_version,
        argMax(tuple(user_name, product_sku, quantity, source, time_of_approval), version) AS last
    FROM {{table "ownership_state"}}
    GROUP BY tenant, user_key, sku_key
)
WHERE tupleElement(last, 3) > 0;

-- Every attempt at every item, processed or not; internal_error is 1 where it was our fault. An unmatched sale is in unprocessed.
CREATE VIEW IF NOT EXISTS {{table "outcomes"}} AS
SELECT tenant, id, batch, `index`, attempt, ref, 'ownership' AS kind, CAST(NULL AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "ownership"}}
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, 'customer_events' AS kind, CAST(t.kind AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "customer_events"}} AS t
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, 'referrals' AS kind, CAST(t.kind AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "referrals"}} AS t
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, 'sales' AS kind, CAST(NULL AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "sales"}}
WHERE matched
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, 'transactions' AS kind, CAST(NULL AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "transactions"}}
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, 'references' AS kind, CAST(t.kind AS Nullable(String)) AS item_kind, 1 AS processed, 0 AS internal_error, accepted_at, judged_at
FROM {{table "references"}} AS t
UNION ALL
SELECT tenant, id, batch, `index`, attempt, ref, kind, item_kind, 0 AS processed, has(reason_code, 'internal_error') AS internal_error, accepted_at, judged_at
FROM {{table "unprocessed"}};

-- How far each batch is. Complete: as many distinct items have an outcome as its header announced. An item's last attempt counts, but whether
-- a batch is complete, or failed as a whole, is decided by the first ones, so that no replay changes it.
CREATE VIEW IF NOT EXISTS {{table "batch_status"}} AS
SELECT b.tenant AS tenant, b.number AS number, b.key AS batch, b.kind AS kind, b.item_kind AS item_kind, b.door AS door, b.ref AS ref,
    b.lookback AS lookback, b.accepted_at AS accepted_at, b.items AS items, toInt64(o.good) AS processed, toInt64(o.bad) AS unprocessed,
    greatest(toInt64(b.items) - toInt64(o.good) - toInt64(o.bad), 0) AS pending,
    multiIf(toInt64(o.good) + toInt64(o.bad) < b.items, 'processing', b.items > 0 AND toInt64(o.faults) >= b.items, 'failed', 'complete') AS status
FROM {{table "batches"}} AS b
{{global}} LEFT JOIN (
    SELECT tenant, batch, countIf(ok = 1) AS good, countIf(ok = 0) AS bad, countIf(fault = 1) AS faults
    FROM (
        SELECT tenant, batch, `index`, argMax(processed, attempt) AS ok, argMin(internal_error, attempt) AS fault
        FROM {{table "outcomes"}}
        WHERE batch != ''
        GROUP BY tenant, batch, `index`
        HAVING min(attempt) = 1
    )
    GROUP BY tenant, batch
) AS o ON o.tenant = b.tenant AND o.batch = b.key;

-- Items whose last attempt failed, as that attempt left them.
CREATE VIEW IF NOT EXISTS {{table "unprocessed_open"}} AS
SELECT * FROM {{table "unprocessed"}}
WHERE (tenant, id, attempt) {{global}} IN (
    SELECT tenant, id, max(attempt)
    FROM {{table "outcomes"}}
    GROUP BY tenant, id
    HAVING argMax(processed, attempt) = 0
);

-- Open items by reason. An item with several reasons counts once for each.
CREATE VIEW IF NOT EXISTS {{table "unprocessed_by_reason"}} AS
SELECT tenant, kind, item_kind, reason_code AS reason, count() AS items, min(accepted_at) AS oldest, max(accepted_at) AS newest
FROM (
    SELECT tenant, kind, item_kind, accepted_at, arrayJoin(arrayDistinct(u.reason_code)) AS reason_code
    FROM {{table "unprocessed_open"}} AS u
)
GROUP BY tenant, kind, item_kind, reason;

-- One row for each product of each purchase, with the event's columns that reports group by. quantity is 1 where it was not given.
CREATE VIEW IF NOT EXISTS {{table "purchase_lines"}} AS
SELECT tenant, id, number, batch, `index`, performed_on, accepted_at, account_id, account_number, participant_id, participant_number,
    unit_id, currency_code, reference_number, line,
    line_product_ids[line] AS product_id, line_given_product_id[line] AS given_product_id, line_given_product_code[line] AS given_product_code,
    line_given_product_alternative_code[line] AS given_product_alternative_code,
    ifNull(line_quantity[line], toDecimal128(1, 10)) AS quantity, line_net_amount[line] AS net_amount, line_vat_amount[line] AS vat_amount,
    line_total_amount[line] AS total_amount
FROM {{table "customer_events"}}
ARRAY JOIN arrayEnumerate(line_quantity) AS line
WHERE kind = 'purchase';

-- One row for each measured key performance indicator of each financial statement.
CREATE VIEW IF NOT EXISTS {{table "measures"}} AS
SELECT tenant, id, number, batch, `index`, performed_on, accepted_at, account_id, account_number, participant_id, participant_number,
    unit_id, measure, kpi_ids[measure] AS kpi_id, measure_given_kpi_id[measure] AS given_kpi_id, measure_given_kpi_name[measure] AS given_kpi_name,
    measure_given_kpi_alternative_code[measure] AS given_kpi_alternative_code, measure_value[measure] AS value,
    measure_given_product_id[measure] AS given_product_id, measure_given_product_code[measure] AS given_product_code,
    measure_given_product_alternative_code[measure] AS given_product_alternative_code
FROM {{table "customer_events"}}
ARRAY JOIN arrayEnumerate(measure_value) AS measure
WHERE kind = 'financial_statement';

-- Purchases of each account, as it was resolved: a participant that belongs to an account counts for that account.
CREATE VIEW IF NOT EXISTS {{table "purchases_by_account"}} AS
SELECT tenant, account_id, account_number, currency_code, count() AS purchases, sum(length(line_quantity)) AS lines,
    sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_net_amount)) AS net_amount,
    sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_vat_amount)) AS vat_amount,
    sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_total_amount)) AS total_amount,
    min(performed_on) AS first_performed_on, max(performed_on) AS last_performed_on
FROM {{table "customer_events"}}
WHERE kind = 'purchase'
GROUP BY tenant, account_id, account_number, currency_code;
