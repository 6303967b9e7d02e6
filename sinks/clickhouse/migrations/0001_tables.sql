-- The tables that the sink fills.
--
-- Every log table begins with the position of the record that a row came from, and the time by which it had to be written: a late insert of
-- a member that lost its partitions is refused by the constraint in_time (see the package comment). They have no partition key, so that one
-- insert is one part. The index on offset serves the question of a take-over: what is there at or above the committed offset?
--
-- Every statement of every migration can be repeated: two processes may run them side by side.

-- Headers of accepted batches; number is the offset in the topic batches, plus 1.
CREATE TABLE IF NOT EXISTS {{local "batches"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `number` Int64,
    `tenant` String,
    `key` String,
    `kind` String,
    `item_kind` Nullable(String),
    `door` String,
    `key_id` String,
    `items` Int32,
    `ref` Nullable(String),
    `accepted_at` DateTime64(3, 'UTC'),
    `lookback` Nullable(Int32),
    INDEX by_key `key` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "batches"}}
ORDER BY (tenant, number)
{{settings}};
{{distributed "batches"}}

-- Log of processed ownership changes; ownership_current shows what holds now.
CREATE TABLE IF NOT EXISTS {{local "ownership"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `user_key` String,
    `sku_key` String,
    `user_name` String,
    `product_sku` String,
    `time_of_approval` Nullable(Date32),
    `source` Nullable(String),
    `quantity` Int64,
    `previous_quantity` Int64,
    `version` Int64,
    `requested_has_product` Nullable(Bool),
    `requested_quantity` Nullable(Int64),
    `requested_increase_quantity_by` Nullable(Int64),
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "ownership"}}
ORDER BY (tenant, sku_key, user_key, version)
{{settings}};
{{distributed "ownership"}}

-- What ownership_current is made of: rows come at least once, the highest version of a key wins, quantity 0 is gone.
CREATE TABLE IF NOT EXISTS {{local "ownership_state"}} (
    `tenant` String,
    `user_key` String,
    `sku_key` String,
    `user_name` String,
    `product_sku` String,
    `quantity` Int64,
    `source` Nullable(String),
    `time_of_approval` Nullable(Date32),
    `version` Int64,
    `is_deleted` UInt8 DEFAULT quantity = 0
)
{{replacing "ownership_state" "version, is_deleted"}}
ORDER BY (tenant, sku_key, user_key)
{{settings}};
{{distributed "ownership_state"}}

-- Processed customer events of six kinds. given_… is how the caller named something, the plain …_id what it resolved to. Lines and
-- measures are parallel arrays; purchase_lines and measures unfold them.
CREATE TABLE IF NOT EXISTS {{local "customer_events"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `kind` String,
    `number` Int64,
    `account_id` Nullable(String),
    `account_number` Nullable(String),
    `participant_id` Nullable(String),
    `participant_number` Nullable(String),
    `classification_id` Nullable(String),
    `unit_id` String,
    `currency_code` Nullable(String),
    `payment_medium_type_id` Nullable(String),
    `payment_medium_brand_id` Nullable(String),
    `invoice_id` Nullable(String),
    `product_id` Nullable(String),
    `line_product_ids` Array(String),
    `kpi_ids` Array(String),
    `amounts_differ` Bool,
    `given_account_id` Nullable(String),
    `given_account_number` Nullable(String),
    `given_account_name` Nullable(String),
    `given_participant_id` Nullable(String),
    `given_participant_number` Nullable(String),
    `given_classification_id` Nullable(String),
    `given_classification_name` Nullable(String),
    `given_classification_alternative_code` Nullable(String),
    `given_unit_id` Nullable(String),
    `given_unit_name` Nullable(String),
    `given_unit_alternative_code` Nullable(String),
    `performed_on` Nullable(DateTime64(3, 'UTC')),
    `description` Nullable(String),
    `external_system` Nullable(String),
    `external_system_reference_number` Nullable(String),
    `udf_string_1` Nullable(String),
    `udf_string_2` Nullable(String),
    `udf_string_3` Nullable(String),
    `udf_string_4` Nullable(String),
    `udf_string_5` Nullable(String),
    `udf_string_6` Nullable(String),
    `udf_string_7` Nullable(String),
    `udf_string_8` Nullable(String),
    `udf_float_1` Nullable(Float64),
    `udf_float_2` Nullable(Float64),
    `udf_float_3` Nullable(Float64),
    `udf_float_4` Nullable(Float64),
    `udf_date_1` Nullable(DateTime64(3, 'UTC')),
    `udf_date_2` Nullable(DateTime64(3, 'UTC')),
    `udf_date_3` Nullable(DateTime64(3, 'UTC')),
    `udf_date_4` Nullable(DateTime64(3, 'UTC')),
    `udf_string_9` Nullable(String),
    `udf_string_10` Nullable(String),
    `udf_string_11` Nullable(String),
    `udf_string_12` Nullable(String),
    `udf_string_13` Nullable(String),
    `udf_string_14` Nullable(String),
    `udf_string_15` Nullable(String),
    `udf_string_16` Nullable(String),
    `reference_number` Nullable(String),
    `payment_medium` Nullable(String),
    `given_payment_medium_type_id` Nullable(String),
    `given_payment_medium_type_name` Nullable(String),
    `given_payment_medium_type_alternative_code` Nullable(String),
    `given_payment_medium_brand_id` Nullable(String),
    `given_payment_medium_brand_name` Nullable(String),
    `given_payment_medium_brand_alternative_code` Nullable(String),
    `given_invoice_id` Nullable(String),
    `given_invoice_number` Nullable(String),
    `given_invoice_reference_number` Nullable(String),
    `given_invoice_back_office_code` Nullable(String),
    `line_given_product_id` Array(Nullable(String)),
    `line_given_product_code` Array(Nullable(String)),
    `line_given_product_alternative_code` Array(Nullable(String)),
    `line_quantity` Array(Nullable(Decimal(38, 10))),
    `line_net_amount` Array(Nullable(Decimal(38, 10))),
    `line_vat_amount` Array(Nullable(Decimal(38, 10))),
    `line_total_amount` Array(Nullable(Decimal(38, 10))),
    `social_media` Nullable(String),
    `profile` Nullable(String),
    `action` Nullable(String),
    `website` Nullable(String),
    `amount` Nullable(Decimal(38, 10)),
    `given_product_id` Nullable(String),
    `given_product_code` Nullable(String),
    `given_product_alternative_code` Nullable(String),
    `measure_given_kpi_id` Array(Nullable(String)),
    `measure_given_kpi_name` Array(Nullable(String)),
    `measure_given_kpi_alternative_code` Array(Nullable(String)),
    `measure_value` Array(Nullable(Decimal(38, 10))),
    `measure_given_product_id` Array(Nullable(String)),
    `measure_given_product_code` Array(Nullable(String)),
    `measure_given_product_alternative_code` Array(Nullable(String)),
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "customer_events"}}
ORDER BY (tenant, kind, accepted_at, batch, `index`)
{{settings}};
{{distributed "customer_events"}}

-- Processed referrals.
CREATE TABLE IF NOT EXISTS {{local "referrals"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `kind` String,
    `number` Int64,
    `referred_id` String,
    `referred_number` String,
    `referred_by_id` String,
    `referred_by_number` String,
    `classification_id` Nullable(String),
    `unit_id` String,
    `version` Int64,
    `given_referred_id` Nullable(String),
    `given_referred_number` Nullable(String),
    `given_referred_by_id` Nullable(String),
    `given_referred_by_number` Nullable(String),
    `given_classification_id` Nullable(String),
    `given_classification_name` Nullable(String),
    `given_classification_alternative_code` Nullable(String),
    `given_unit_id` Nullable(String),
    `given_unit_name` Nullable(String),
    `given_unit_alternative_code` Nullable(String),
    `performed_on` Nullable(DateTime64(3, 'UTC')),
    `description` Nullable(String),
    `external_system` Nullable(String),
    `external_system_reference_number` Nullable(String),
    `udf_string_1` Nullable(String),
    `udf_string_2` Nullable(String),
    `udf_string_3` Nullable(String),
    `udf_string_4` Nullable(String),
    `udf_string_5` Nullable(String),
    `udf_string_6` Nullable(String),
    `udf_string_7` Nullable(String),
    `udf_string_8` Nullable(String),
    `udf_float_1` Nullable(Float64),
    `udf_float_2` Nullable(Float64),
    `udf_float_3` Nullable(Float64),
    `udf_float_4` Nullable(Float64),
    `udf_date_1` Nullable(DateTime64(3, 'UTC')),
    `udf_date_2` Nullable(DateTime64(3, 'UTC')),
    `udf_date_3` Nullable(DateTime64(3, 'UTC')),
    `udf_date_4` Nullable(DateTime64(3, 'UTC')),
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "referrals"}}
ORDER BY (tenant, accepted_at, batch, `index`)
{{settings}};
{{distributed "referrals"}}

-- Sales, matched to a call or not: processed ones and, with the calls that were looked at, those without a match, which are in unprocessed
-- as well. sales_current shows the last version of each sale.
CREATE TABLE IF NOT EXISTS {{local "sales"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `matched` Bool DEFAULT isNotNull(rule),
    `sale_key` String,
    `version` Int64,
    `rule` Nullable(String),
    `call_id` Nullable(String),
    `call_started_at` Nullable(DateTime64(3, 'UTC')),
    `call_mhid` Nullable(String),
    `call_caller_number` Nullable(String),
    `campaign` Nullable(String),
    `source` Nullable(String),
    `medium` Nullable(String),
    `keyword` Nullable(String),
    `candidate_call_id` Array(String),
    `candidate_started_at` Array(DateTime64(3, 'UTC')),
    `candidate_rule` Array(String),
    `candidate_ruled_out` Array(String),
    `sale_id` Nullable(String),
    `description` Nullable(String),
    `date` Nullable(Date32),
    `value` Nullable(String),
    `mhid` Nullable(String),
    `clis` Array(String),
    `lookback` Nullable(Int32),
    `property_key` Array(Nullable(String)),
    `property_value` Array(Nullable(String)),
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "sales"}}
ORDER BY (tenant, sale_key, version)
{{settings}};
{{distributed "sales"}}

-- Financial transactions, as sent; transactions_current leaves those out that a later one replaces.
CREATE TABLE IF NOT EXISTS {{local "transactions"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `bee_number_customer` Nullable(Decimal(57, 28)),
    `transaction_code` Nullable(String),
    `transaction_bids_code` Nullable(String),
    `transaction_amount` Nullable(Decimal(57, 28)),
    `transaction_bill_seq` Nullable(String),
    `transaction_time` Nullable(DateTime64(9, 'UTC')),
    `transaction_id` Nullable(String),
    `campaign` Nullable(String),
    `order_number` Nullable(String),
    `invoice_number` Nullable(String),
    `retail_sales_amount` Nullable(Decimal(57, 28)),
    `federal_tax_amount_1` Nullable(Decimal(57, 28)),
    `federal_tax_amount_2` Nullable(Decimal(57, 28)),
    `local_tax_amount` Nullable(Decimal(57, 28)),
    `payment_amount` Nullable(Decimal(57, 28)),
    `customer_price` Nullable(Decimal(57, 28)),
    `free_amount` Nullable(Decimal(57, 28)),
    `bonus_amount` Nullable(Decimal(57, 28)),
    `discount_percentage` Nullable(Decimal(57, 28)),
    `customer_count` Nullable(Decimal(57, 28)),
    `price_promotion_code` Nullable(String),
    `account_type` Nullable(String),
    `state` Nullable(String),
    `tax_area` Nullable(String),
    `tax_rate` Nullable(Decimal(57, 28)),
    `tax_indicator` Nullable(String),
    `net_sales_amount` Nullable(Decimal(57, 28)),
    `current_balance` Nullable(Decimal(57, 28)),
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "transactions"}}
ORDER BY (tenant, accepted_at, batch, `index`)
{{settings}};
{{distributed "transactions"}}

-- Records that came through the API and were written to a reference or fact topic, which kind names.
CREATE TABLE IF NOT EXISTS {{local "references"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `kind` String,
    `own_id` String,
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "references"}}
ORDER BY (tenant, accepted_at, batch, `index`)
{{settings}};
{{distributed "references"}}

-- Log of failed attempts, of all kinds; unprocessed_open has the items that are still failed.
CREATE TABLE IF NOT EXISTS {{local "unprocessed"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `id` String,
    `batch` String,
    `index` Int32,
    `attempt` Int32,
    `ref` Nullable(String),
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `accepted_at` DateTime64(3, 'UTC'),
    `judged_at` DateTime64(3, 'UTC'),
    `kind` String,
    `item_kind` Nullable(String),
    `reason_code` Array(String),
    `reason_field` Array(String),
    `reason_value` Array(Nullable(String)),
    `reason_message` Array(String),
    `format` String,
    `original` String,
    INDEX by_batch `batch` TYPE bloom_filter GRANULARITY 1,
    INDEX by_id `id` TYPE bloom_filter GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "unprocessed"}}
ORDER BY (tenant, accepted_at, batch, `index`, attempt)
{{settings}};
{{distributed "unprocessed"}}

-- Records that could not be read as an item, whole. source_… is where the bad record lies; tenant is empty where it was not known.
CREATE TABLE IF NOT EXISTS {{local "dead_letters"}} (
    `topic` String,
    `epoch` Int32,
    `partition` Int32,
    `offset` Int64,
    `write_by` DateTime64(3, 'UTC'),
    `tenant` String,
    `source_topic` String,
    `source_epoch` Int32,
    `source_partition` Int32,
    `source_offset` Int64,
    `key` Nullable(String),
    `value` Nullable(String),
    `header_key` Array(String),
    `header_value` Array(String),
    `reason_code` String,
    `reason_field` String,
    `reason_value` Nullable(String),
    `reason_message` String,
    `recorded_at` DateTime64(3, 'UTC'),
    `at` DateTime64(3, 'UTC'),
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    CONSTRAINT in_time CHECK write_by > nowInBlock64(3)
)
{{mergeTree "dead_letters"}}
ORDER BY (tenant, at)
{{settings}};
{{distributed "dead_letters"}}

-- References: rows come at least once, the highest version of an id wins. The plain name is the view.
--
-- An Array cannot be NULL: a list that is absent and an empty one are both []. Of an account's payment_medium_types and
-- payment_medium_brands [] therefore says "all are allowed" or "none is"; only the record in the topic accounts, by which events are judged,
-- tells them apart.

CREATE TABLE IF NOT EXISTS {{local "accounts_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `number` String,
    `name` Nullable(String),
    `payment_medium_types` Array(String),
    `payment_medium_brands` Array(String)
)
{{replacing "accounts_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "accounts_state"}}

CREATE TABLE IF NOT EXISTS {{local "participants_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `number` String,
    `account_id` Nullable(String)
)
{{replacing "participants_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "participants_state"}}

CREATE TABLE IF NOT EXISTS {{local "units_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `name` String,
    `alternative_code` Nullable(String),
    `currency_id` Nullable(String),
    `currency_code` Nullable(String)
)
{{replacing "units_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "units_state"}}

CREATE TABLE IF NOT EXISTS {{local "classifications_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `name` String,
    `alternative_code` Nullable(String),
    `kind` String
)
{{replacing "classifications_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "classifications_state"}}

-- Own ids of products are compared without regard to case: id_key, and product_key wherever a product is named, is the id folded. Another
-- spelling is another record; of several the last one counts.
CREATE TABLE IF NOT EXISTS {{local "products_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `id_key` String,
    `number` Nullable(Int64),
    `code` String,
    `alternative_code` Nullable(String),
    `description` Nullable(String),
    `barcodes` Array(String)
)
{{replacing "products_state" "version, is_deleted"}}
ORDER BY (tenant, id_key, id)
{{settings}};
{{distributed "products_state"}}

CREATE TABLE IF NOT EXISTS {{local "payment_medium_types_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `name` String,
    `alternative_code` Nullable(String)
)
{{replacing "payment_medium_types_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "payment_medium_types_state"}}

CREATE TABLE IF NOT EXISTS {{local "payment_medium_brands_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `name` String,
    `alternative_code` Nullable(String)
)
{{replacing "payment_medium_brands_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "payment_medium_brands_state"}}

CREATE TABLE IF NOT EXISTS {{local "kpis_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `name` String,
    `alternative_code` Nullable(String)
)
{{replacing "kpis_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "kpis_state"}}

CREATE TABLE IF NOT EXISTS {{local "invoices_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `number` Nullable(String),
    `reference_number` Nullable(String),
    `back_office_code` Nullable(String)
)
{{replacing "invoices_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "invoices_state"}}

CREATE TABLE IF NOT EXISTS {{local "api_keys_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `doors` Array(String),
    `allowed_ips` Array(String),
    `rate_limit` Nullable(Int32),
    `enabled` Bool,
    `note` String,
    `created_at` DateTime64(3, 'UTC')
)
{{replacing "api_keys_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "api_keys_state"}}

CREATE TABLE IF NOT EXISTS {{local "customers_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` Int64,
    `account_number` Nullable(String),
    `name` Nullable(String)
)
{{replacing "customers_state" "version, is_deleted"}}
ORDER BY (tenant, id)
{{settings}};
{{distributed "customers_state"}}

CREATE TABLE IF NOT EXISTS {{local "customer_parts_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `customer` Int64,
    `product` String,
    `product_key` String,
    `part_number` String
)
{{replacing "customer_parts_state" "version, is_deleted"}}
ORDER BY (tenant, customer, product_key, product)
{{settings}};
{{distributed "customer_parts_state"}}

-- Facts: as references. Of two records of one id the one that the broker took later wins, whichever partition it came by.

-- Calls are looked for thousands of keys at once, which lie all over the tables. So a look should cost little: few rows in a granule, and
-- all columns of a granule together in one file, each compressed by itself. In files of their own they are compressed by 64 KiB, all of
-- which are unpacked for the one row.
--
-- Every version of a call that lay at another place is kept: the sink looks here for the places that a call had before, and moves it in the
-- tables by number and by MHID. number_key is the caller's number in a form that can be compared, empty where it is none.
CREATE TABLE IF NOT EXISTS {{local "calls_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `started_at` DateTime64(3, 'UTC'),
    `caller_number` Nullable(String),
    `mhid` Nullable(String),
    `number_key` String,
    `mhid_key` String,
    `visitor_id` Nullable(String),
    `service_number` Nullable(String),
    `terminating_number` Nullable(String),
    `campaign` Nullable(String),
    `source` Nullable(String),
    `medium` Nullable(String),
    `keyword` Nullable(String),
    `first_source` Nullable(String),
    `first_medium` Nullable(String),
    `first_keyword` Nullable(String),
    `google_click_id` Nullable(String),
    `google_client_id` Nullable(String),
    `media_channel` Nullable(String),
    `media_owner` Nullable(String),
    `media_description` Nullable(String),
    `department` Nullable(String),
    `tags` Array(String),
    `call_ref` Nullable(String),
    `page_uri` Nullable(String),
    `page_title` Nullable(String),
    `landing_page_uri` Nullable(String),
    `landing_page_title` Nullable(String)
)
{{replacing "calls_state" "version, is_deleted"}}
ORDER BY (tenant, id, number_key, mhid_key, started_at)
{{with settings}}{{.}},{{else}}SETTINGS{{end}} index_granularity = 128, min_rows_for_wide_part = 1000000000000;
{{distributed "calls_state"}}

-- Calls as they lie together by number and by MHID; filled from calls_state by the sink (moves.go), and read for thousands of keys at once
-- (calls.go). A call that went to another place, or is gone, has a deleted row where it was, with the version that took it away.
--
-- Nobody else reads them, so all that a look wants to know is in one column, and what went into it is not kept for itself: each column more
-- costs as much again for each key. So do large blocks, which are unpacked whole for a few rows: a key's hash lies in one of 4 KiB, and its
-- calls in those of one granule. Parts of a quarter of a million calls have a file for each column, which is read in half the time; smaller
-- ones, as inserts are, are one file, which is synced in less.
--
-- Here alone the order does not begin with the tenant, who is in the hash: keys of many tenants would be looked for among the calls of each.
CREATE TABLE IF NOT EXISTS {{local "calls_by_number_state"}} (
    `hash` UInt64 MATERIALIZED sipHash64(tenant, number_key) CODEC(NONE) SETTINGS (min_compress_block_size = 4096, max_compress_block_size = 4096),
    `call` String MATERIALIZED formatRow('RowBinary', tenant, number_key, started_at, version, is_deleted, id, mhid, caller_number, campaign, source, medium, keyword)
        SETTINGS (min_compress_block_size = 1024),
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `number_key` String EPHEMERAL,
    `started_at` DateTime64(3, 'UTC'),
    `id` String,
    `mhid` Nullable(String) EPHEMERAL,
    `caller_number` Nullable(String) EPHEMERAL,
    `campaign` Nullable(String) EPHEMERAL,
    `source` Nullable(String) EPHEMERAL,
    `medium` Nullable(String) EPHEMERAL,
    `keyword` Nullable(String) EPHEMERAL
)
{{replacing "calls_by_number_state" "version, is_deleted"}}
ORDER BY (hash, started_at, id)
PRIMARY KEY (hash, started_at)
{{with settings}}{{.}},{{else}}SETTINGS{{end}} index_granularity = 32, min_bytes_for_wide_part = 33554432;
{{distributed "calls_by_number_state"}}

CREATE TABLE IF NOT EXISTS {{local "calls_by_mhid_state"}} (
    `hash` UInt64 MATERIALIZED sipHash64(tenant, mhid_key) CODEC(NONE) SETTINGS (min_compress_block_size = 4096, max_compress_block_size = 4096),
    `call` String MATERIALIZED formatRow('RowBinary', tenant, mhid_key, started_at, version, is_deleted, id, mhid, caller_number, campaign, source, medium, keyword)
        SETTINGS (min_compress_block_size = 1024),
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `mhid_key` String EPHEMERAL,
    `started_at` DateTime64(3, 'UTC'),
    `id` String,
    `mhid` Nullable(String) EPHEMERAL,
    `caller_number` Nullable(String) EPHEMERAL,
    `campaign` Nullable(String) EPHEMERAL,
    `source` Nullable(String) EPHEMERAL,
    `medium` Nullable(String) EPHEMERAL,
    `keyword` Nullable(String) EPHEMERAL
)
{{replacing "calls_by_mhid_state" "version, is_deleted"}}
ORDER BY (hash, started_at, id)
PRIMARY KEY (hash, started_at)
{{with settings}}{{.}},{{else}}SETTINGS{{end}} index_granularity = 32, min_bytes_for_wide_part = 33554432;
{{distributed "calls_by_mhid_state"}}

-- Every version of a line that named another customer is kept: the sink looks here for the customers that had a line before, and moves it in
-- the tables by customer, which reports read.
CREATE TABLE IF NOT EXISTS {{local "order_lines_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `order_number` Nullable(String),
    `customer` Int64,
    `product` String,
    `product_key` String,
    `quantity` Decimal(38, 10),
    `ordered_on` Date32
)
{{replacing "order_lines_state" "version, is_deleted"}}
ORDER BY (tenant, id, customer)
{{settings}};
{{distributed "order_lines_state"}}

CREATE TABLE IF NOT EXISTS {{local "invoice_lines_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `invoice_number` Nullable(String),
    `order_number` Nullable(String),
    `customer` Int64,
    `product` String,
    `product_key` String,
    `quantity` Decimal(38, 10),
    `invoiced_on` Date32
)
{{replacing "invoice_lines_state" "version, is_deleted"}}
ORDER BY (tenant, id, customer)
{{settings}};
{{distributed "invoice_lines_state"}}

CREATE TABLE IF NOT EXISTS {{local "stock_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `product` String,
    `product_key` String,
    `available_now` Decimal(38, 10),
    `physical` Nullable(Decimal(38, 10)),
    `next_available_on` Nullable(Date32),
    `next_available_quantity` Nullable(Decimal(38, 10))
)
{{replacing "stock_state" "version, is_deleted"}}
ORDER BY (tenant, product_key, product)
{{settings}};
{{distributed "stock_state"}}
