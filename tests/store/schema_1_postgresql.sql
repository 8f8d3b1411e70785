CREATE TABLE projects (
    id BIGSERIAL NOT NULL,
    host TEXT NOT NULL,
    external_id BIGINT NOT NULL,
    title TEXT NOT NULL,
    label_config TEXT NOT NULL,
    label_schema JSON NOT NULL,
    rule JSON NOT NULL,
    judged TEXT,
    settings JSON NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    reconciled_at TIMESTAMP WITH TIME ZONE,
    full_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    UNIQUE (host, external_id)
);

CREATE TABLE store (
    schema_version INTEGER NOT NULL,
    store_id VARCHAR(32) NOT NULL
);

CREATE TABLE annotations (
    project_id BIGINT NOT NULL,
    annotation_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    labels TEXT NOT NULL,
    was_cancelled BOOLEAN NOT NULL,
    ground_truth BOOLEAN NOT NULL,
    annotator BIGINT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    quarantine TEXT,
    PRIMARY KEY (project_id, annotation_id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX annotations_by_task ON annotations (project_id, task_id);

CREATE INDEX blank_annotations ON annotations (project_id) WHERE labels = '[]';

CREATE INDEX quarantined_annotations ON annotations (project_id) WHERE quarantine IS NOT NULL;

CREATE INDEX skipped_annotations ON annotations (project_id) WHERE was_cancelled;

CREATE TABLE events (
    id BIGSERIAL NOT NULL,
    project_id BIGINT NOT NULL,
    fingerprint VARCHAR(64) NOT NULL,
    action VARCHAR(64) NOT NULL,
    task_ids TEXT NOT NULL,
    annotation_ids TEXT NOT NULL,
    labels INTEGER NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    settled_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    UNIQUE (project_id, fingerprint),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX unsettled_events ON events (project_id, id) WHERE settled_at IS NULL;

CREATE TABLE ignored_events (
    project_id BIGINT NOT NULL,
    action VARCHAR(64) NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (project_id, action),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE jobs (
    id BIGSERIAL NOT NULL,
    project_id BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason TEXT NOT NULL,
    labels INTEGER NOT NULL,
    immediate BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    heartbeat_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    worker TEXT,
    claims INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    delays INTEGER NOT NULL,
    progress FLOAT NOT NULL,
    message TEXT NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    summary JSON,
    error TEXT,
    PRIMARY KEY (id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX jobs_by_project ON jobs (project_id, id);

CREATE INDEX jobs_by_state ON jobs (state, due_at);

CREATE UNIQUE INDEX one_due_job ON jobs (project_id) WHERE state = 'due';

CREATE UNIQUE INDEX one_running_job ON jobs (project_id) WHERE state = 'running';

CREATE TABLE labels (
    project_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    labels TEXT NOT NULL,
    annotation_id BIGINT NOT NULL,
    annotators TEXT NOT NULL,
    agreement FLOAT NOT NULL,
    ground_truth BOOLEAN NOT NULL,
    labelled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (project_id, task_id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE queries (
    project_id BIGINT NOT NULL,
    round INTEGER NOT NULL,
    task_id BIGINT NOT NULL,
    rank INTEGER NOT NULL,
    arm VARCHAR(16) NOT NULL,
    acquisition FLOAT NOT NULL,
    reason TEXT NOT NULL,
    confidence FLOAT,
    prediction TEXT NOT NULL,
    PRIMARY KEY (project_id, round, task_id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE rounds (
    project_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    strategy TEXT NOT NULL,
    seed BIGINT NOT NULL,
    params JSON NOT NULL,
    state VARCHAR(16) NOT NULL,
    error TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    pushed_at TIMESTAMP WITH TIME ZONE,
    verified_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (project_id, number),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE serving (
    project_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    pinned BOOLEAN NOT NULL,
    PRIMARY KEY (project_id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE tasks (
    project_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    gone BOOLEAN NOT NULL,
    split VARCHAR(8) NOT NULL,
    drawn_at TIMESTAMP WITH TIME ZONE,
    first_answered_at TIMESTAMP WITH TIME ZONE,
    answers INTEGER NOT NULL,
    skips INTEGER NOT NULL,
    conflict BOOLEAN NOT NULL,
    last_round INTEGER,
    content_hash VARCHAR(64),
    image_error TEXT,
    updated_at TIMESTAMP WITH TIME ZONE,
    image TEXT,
    data TEXT NOT NULL,
    PRIMARY KEY (project_id, task_id),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX conflicting_tasks ON tasks (project_id) WHERE conflict;

CREATE INDEX tasks_without_hash ON tasks (project_id, task_id) WHERE content_hash IS NULL;

CREATE TABLE versions (
    project_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason TEXT NOT NULL,
    meta JSON NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    promoted_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (project_id, number),
    FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
